-- choose: timestamp a choice that is made now, later than every known choice of this user, and store it if asked.
-- Running it twice stores the same choice with a later timestamp.
--
-- ARGV 1 user key  2 '0' or '1', '' to store nothing  3 chosen_ms known from other replicas, or 0
--      4 generation for a hash that does not exist yet
-- Returns chosen_ms.

local now = now_ms()
local _, entered_ms = read_entry(ARGV[1])
local chosen_ms = math.max(now, entered_ms + 1, tonumber(ARGV[3]) + 1)
if ARGV[2] ~= '' then
    write_entry(ARGV[1], ARGV[2], chosen_ms, ARGV[4])
end
return string.format('%.0f', chosen_ms)
