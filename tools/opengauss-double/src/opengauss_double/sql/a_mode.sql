-- What differs in mode A: NULL || 'a' is 'a'.
CREATE FUNCTION opengauss_double.join_text(text, text) RETURNS text IMMUTABLE LANGUAGE sql
AS $$ SELECT CASE WHEN $1 IS NULL THEN $2 WHEN $2 IS NULL THEN $1 ELSE pg_catalog.textcat($1, $2) END $$;
CREATE FUNCTION opengauss_double.join_any_text(anynonarray, text) RETURNS text STABLE LANGUAGE sql
AS $$ SELECT opengauss_double.join_text($1::text, $2) $$;
CREATE FUNCTION opengauss_double.join_text_any(text, anynonarray) RETURNS text STABLE LANGUAGE sql
AS $$ SELECT opengauss_double.join_text($1, $2::text) $$;
UPDATE pg_operator SET oprcode = 'opengauss_double.join_text'::regproc
WHERE oid = 'pg_catalog.||(text, text)'::regoperator;
UPDATE pg_operator SET oprcode = 'opengauss_double.join_any_text'::regproc
WHERE oid = 'pg_catalog.||(anynonarray, text)'::regoperator;
UPDATE pg_operator SET oprcode = 'opengauss_double.join_text_any'::regproc
WHERE oid = 'pg_catalog.||(text, anynonarray)'::regoperator;
