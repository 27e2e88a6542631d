"""A trained model leaves: as a folder with a card, as exported graphs, as a MONAI bundle."""
