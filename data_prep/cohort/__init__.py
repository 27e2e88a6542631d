"""A cohort on disk: its layout, its compiled slices, who trains and who is tested."""
