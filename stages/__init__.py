"""The stages of the pipeline, one module each; the library beneath them is `stages.core`."""
