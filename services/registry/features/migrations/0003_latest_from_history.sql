-- The latest row of each entity is found by the index of rows_<view_id>; latest_<view_id> said it once more. Statistics
-- are taken of what is large enough to have its index used, see services/registry/features/store/views.py.
DO $$
DECLARE
    number bigint;
BEGIN
    FOR number IN SELECT view_id FROM features.views LOOP
        EXECUTE format('DROP TABLE features.latest_%s', number);
        EXECUTE format(
            'ALTER TABLE features.rows_%s SET (autovacuum_analyze_threshold = 1000, autovacuum_vacuum_threshold = 1000)',
            number
        );
    END LOOP;
END
$$;
