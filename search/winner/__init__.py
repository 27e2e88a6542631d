"""From a finished search to a winner: confirmed, trained finally, tested once."""
