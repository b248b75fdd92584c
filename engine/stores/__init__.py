"""All input and output: files, databases, locks."""
