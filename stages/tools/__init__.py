"""Commands for people, which are not stages of the pipeline."""
