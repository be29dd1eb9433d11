"""The program in your hands: window, pilot, engine process, recorder, remote viewers."""
