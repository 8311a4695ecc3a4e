"""The record of all runs in a PostgreSQL database: for several processes, or several machines."""
