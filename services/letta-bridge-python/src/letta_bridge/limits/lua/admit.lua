-- admit: count a turn for the user's rate, and return the tokens spent today.
--
-- KEYS 1 rate:    prefix  + user: until when the user's bucket is full (ms, this server's clock)
--      2 tokens:  prefix  + day (since 1970, UTC): hash user -> tokens; the empty name holds the total
-- ARGV 1 user  2 ms between two turns in the long run, 0 for no limit  3 turns at once
-- Returns {1, or 0 if the turn exceeds the rate and is not counted; tokens of the user; tokens of all users}.

local user, interval, burst = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local in_rate = 1

if interval > 0 then
    local key = KEYS[1] .. user
    local full_until = math.max(tonumber(redis.call('GET', key) or now), now)
    if full_until - now > interval * (burst - 1) then
        in_rate = 0
    else
        full_until = full_until + interval
        redis.call('SET', key, string.format('%.3f', full_until), 'PX', math.ceil(full_until - now))
    end
end

local today = KEYS[2] .. string.format('%d', math.floor(time[1] / 86400))
local tokens = redis.call('HMGET', today, user, '')
return { in_rate, tokens[1], tokens[2] }
