"""What may be done to a patient's volume before it is cropped and resized, each part by itself."""
