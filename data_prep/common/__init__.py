"""What all rooms use: errors, files, processes, words."""
