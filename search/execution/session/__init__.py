"""Ray itself: started here or joined, watched, shown."""
