"""Tests of the gate, of calibration and of prediction sets."""
