-- Functions of PostgreSQL that openGauss lacks, for Letta's migrations and other clients of its database.

-- A random UUID of version 4 from what every release has.
CREATE FUNCTION gen_random_uuid() RETURNS uuid LANGUAGE sql VOLATILE AS $$
    SELECT overlay(overlay(md5(random()::text || clock_timestamp()::text || random()::text)
                           placing '4' from 13) placing 'a' from 17)::uuid
$$;
