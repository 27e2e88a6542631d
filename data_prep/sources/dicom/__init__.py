"""DICOM: studies, series, pictures, masks."""
