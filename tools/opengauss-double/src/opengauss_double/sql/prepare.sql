-- Makes a database of PostgreSQL look like one of openGauss: run once in each, as superuser, before the generated part.
-- Functions and operators are renamed, not deleted, because the catalog refers to them by number.
SET allow_system_table_mods = on;
CREATE SCHEMA opengauss_double;
GRANT USAGE ON SCHEMA opengauss_double TO PUBLIC;

-- The schema public is the initial user's, who need not own the database; nobody else may create in it.
ALTER SCHEMA public OWNER TO CURRENT_USER;

-- json and jsonb convert only where a cast is written.
UPDATE pg_cast SET castcontext = 'e'
WHERE (castsource, casttarget) IN (('json'::regtype, 'jsonb'::regtype), ('jsonb'::regtype, 'json'::regtype));

-- jsonb takes no subscripts; its second GIN operator class has another name.
UPDATE pg_type SET typsubscript = 0 WHERE oid = 'jsonb'::regtype;
UPDATE pg_opclass SET opcname = 'jsonb_hash_ops' WHERE opcname = 'jsonb_path_ops';

-- "/" on integers gives float8 in every mode.
DO $body$
DECLARE
    division record;
BEGIN
    FOR division IN
        SELECT oid, oprleft::regtype AS l, oprright::regtype AS r FROM pg_operator
        WHERE oprname = '/' AND oprleft::regtype::text IN ('smallint', 'integer', 'bigint')
          AND oprright::regtype::text IN ('smallint', 'integer', 'bigint')
    LOOP
        EXECUTE format(
            'CREATE FUNCTION opengauss_double.quotient(%s, %s) RETURNS float8 IMMUTABLE STRICT LANGUAGE sql '
            'AS $$ SELECT $1::float8 / $2::float8 $$', division.l, division.r);
        UPDATE pg_operator SET oprresult = 'float8'::regtype,
            oprcode = format('opengauss_double.quotient(%s, %s)', division.l, division.r)::regprocedure
        WHERE oid = division.oid;
    END LOOP;
END
$body$;

CREATE FUNCTION pg_catalog.datcompatibility(pg_catalog.pg_database) RETURNS text STABLE LANGUAGE sql
AS $$ SELECT coalesce(
    substring(pg_catalog.shobj_description($1.oid, 'pg_database') FROM '^opengauss_double \S+ (\S+)$'), 'A') $$;

-- The server's client is the double's, not the double.
UPDATE pg_proc SET proname = proname || ' (hidden)' WHERE oid = 'pg_catalog.inet_client_port()'::regprocedure;
CREATE FUNCTION pg_catalog.inet_client_port() RETURNS integer STABLE LANGUAGE sql
AS $$ SELECT nullif(current_setting('opengauss_double.client_port'), '')::integer $$;

-- The double's own questions need what it hides.
CREATE FUNCTION opengauss_double.to_regclass(text) RETURNS regclass STABLE STRICT LANGUAGE internal AS 'to_regclass';
