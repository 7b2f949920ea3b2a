"""The licences of everything that the suite is installed with."""
