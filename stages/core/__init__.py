"""The science: data, models, students, objectives, training, analyses, claims and figures.

Nothing here knows DVC, Hydra or a command line; every function can be imported and tested alone.
"""
