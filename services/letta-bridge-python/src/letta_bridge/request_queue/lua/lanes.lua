-- lanes: waiting lanes and turns in flight, without payloads. Changes nothing.
--
-- ARGV 1 start  2 stop (positions, both of the turns in flight, by deadline, and of `ready`, in the order served)
-- An unreadable turn has an empty bridge and lane; it is set aside when its lease expires.
-- Returns {now_ms, turns in flight, lanes ready,
--          {{receipt, bridge, lane, attempts, ms of the hand-out (of older bridges first_ms), deadline_ms, waiting,
--            first_ms of the oldest waiting}, …},
--          {{lane, waiting, first_ms of the oldest waiting}, …}}; first_ms is '' if nothing waits.

local function waiting(lane)
    local oldest = redis.pcall('LINDEX', LANE .. lane, -1)
    local first_ms = type(oldest) == 'string' and string.match(oldest, '^%d+ %d+ (%d+)\n') or ''
    return length_of(LANE .. lane), first_ms
end

local turns = {}
local leases = redis.call('ZRANGE', LEASES, ARGV[1], ARGV[2], 'WITHSCORES')
for index = 1, #leases, 2 do
    local record = redis.call('HGET', TURNS, leases[index])
    if record then
        local taker, lane, entry = split_turn(record)
        local attempts, first_ms = string.match(entry or '', '^%d+ (%d+) (%d+)\n')
        local count, oldest = waiting(lane or '')
        local begun = redis.call('ZSCORE', BEGUN, leases[index])
        turns[#turns + 1] = {
            leases[index], taker or '', lane or '', attempts or '0', begun or first_ms or '', leases[index + 1], count,
            oldest,
        }
    end
end

local ready = {}
for index, lane in ipairs(redis.call('LRANGE', READY, ARGV[1], ARGV[2])) do
    local count, oldest = waiting(lane)
    ready[index] = { lane, count, oldest }
end

return { now_ms(), redis.call('HLEN', TURNS), redis.call('LLEN', READY), turns, ready }
