-- Run once, when the database is made: a role for each service, which owns its schema and can read no other's.
-- The passwords come from files, so that no command line ever shows them.
\set registry_password `cat /run/secrets/registry_database_password`
\set monitoring_password `cat /run/secrets/monitoring_database_password`
\set jobs_password `cat /run/secrets/jobs_database_password`
\set fetcher_password `cat /run/secrets/fetcher_database_password`
\set trainer_password `cat /run/secrets/trainer_database_password`

REVOKE ALL ON DATABASE penstock FROM PUBLIC;
REVOKE ALL ON SCHEMA public FROM PUBLIC;

CREATE ROLE registry LOGIN PASSWORD :'registry_password';
CREATE ROLE monitoring LOGIN PASSWORD :'monitoring_password';
CREATE ROLE jobs LOGIN PASSWORD :'jobs_password';
CREATE ROLE fetcher LOGIN PASSWORD :'fetcher_password';
CREATE ROLE trainer LOGIN PASSWORD :'trainer_password';
GRANT CONNECT, CREATE, TEMPORARY ON DATABASE penstock TO registry, monitoring, jobs, fetcher, trainer;
