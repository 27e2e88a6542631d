"""The synthetic head-CT cohort."""
