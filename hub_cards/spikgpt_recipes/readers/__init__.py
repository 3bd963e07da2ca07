"""Read the published files of a study in parts of a few thousand cells."""
