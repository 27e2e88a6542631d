"""Raw scans to a cohort: the patient-folder layout, its manifest, the compiled store and the locked split."""
