"""Who stops trials early."""
