"""Commands for people: what is no stage of the pipeline."""
