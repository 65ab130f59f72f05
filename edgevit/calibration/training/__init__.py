"""Training of codes and steps on the calibration images."""
