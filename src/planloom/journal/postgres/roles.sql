-- Who may do what in a journal, as roles without a login. Run it as the journal's owner, after a planloom of the owner
-- has made the journal; again after each upgrade; harmless when repeated. Then, for each program or person:
--     CREATE ROLE orchestrator LOGIN IN ROLE planloom_agent;
-- Workers get no login: they never speak to the database.

DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['planloom_agent', 'planloom_reader', 'planloom_person'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role);
        END IF;
    END LOOP;
END
$$;

REVOKE ALL ON SCHEMA planloom FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA planloom FROM PUBLIC, planloom_agent, planloom_reader, planloom_person;
GRANT USAGE ON SCHEMA planloom TO planloom_agent, planloom_reader, planloom_person;

-- Readers: list, show, explain, verify, watch. Not `work`: its tokens are what an outcome is known by.
GRANT SELECT ON planloom.format, planloom.runs, planloom.events, planloom.blobs, planloom.posted, planloom.refusals
    TO planloom_agent, planloom_reader, planloom_person;

-- People who answer: approve, resolve, cancel. They add to what is left for a run, and change no record.
GRANT INSERT ON planloom.posted, planloom.blobs TO planloom_person, planloom_agent;
GRANT SELECT, INSERT, DELETE ON planloom.commits TO planloom_person, planloom_agent;
GRANT USAGE ON SEQUENCE planloom.posted_number_seq TO planloom_person, planloom_agent;

-- Engines and orchestrators: they add events, and can change or delete none.
GRANT INSERT ON planloom.events, planloom.runs TO planloom_agent;
GRANT UPDATE (status, wake_at) ON planloom.runs TO planloom_agent;
GRANT DELETE ON planloom.posted TO planloom_agent;
GRANT SELECT, INSERT, UPDATE, DELETE ON planloom.work TO planloom_agent;
GRANT SELECT, INSERT, UPDATE ON planloom.buckets TO planloom_agent;
GRANT SELECT, INSERT, UPDATE ON planloom.refusals TO planloom_agent;
