-- Links between a run's events; see journal/chain.py. What was written before has none: NULL.

-- The link that comes before a run's first event. NULL: a run that was begun before there were links.
ALTER TABLE runs ADD COLUMN first_link BLOB;

ALTER TABLE events ADD COLUMN link BLOB;

-- Of its own: what people leave is in nobody's order.
ALTER TABLE posted ADD COLUMN link BLOB;
