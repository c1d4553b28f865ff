"""devicelab: train models on the Android phones on your desk."""
