"""From raw scans to a cohort's folders."""
