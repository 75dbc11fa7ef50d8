"""From files, folders and names to models and pipelines, and what a file is before it is loaded."""
