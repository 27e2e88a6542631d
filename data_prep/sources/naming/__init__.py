"""What names of files say: which are masks, what belongs together, whose a scan is."""
