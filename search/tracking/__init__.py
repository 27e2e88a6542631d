"""What others use to look at trainings: their files, written from ours."""
