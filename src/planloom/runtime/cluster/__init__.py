"""Runs that many processes drive together: orchestrators that keep nothing, over PostgreSQL and NATS."""
