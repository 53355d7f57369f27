-- choose: date a choice that somebody makes now, later than every other one known of this user, and enter it if asked.
-- Repeating it dates the same choice anew.
--
-- ARGV 1 user key  2 '0' or '1', or '' to enter nothing  3 chosen_ms known from elsewhere, or 0  4 name for a new hash
-- Returns chosen_ms.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local _, entered_ms = read_entry(ARGV[1])
local chosen_ms = math.max(now, entered_ms + 1, tonumber(ARGV[3]) + 1)
if ARGV[2] ~= '' then
    write_entry(ARGV[1], ARGV[2], chosen_ms, ARGV[4])
end
return string.format('%.0f', chosen_ms)
