"""The bridge: folds of records, the tables that they fill, the queries on them."""
