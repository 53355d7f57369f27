-- dispatch: take over what dead bridges left, route new tasks into lanes, hand out up to `want` turns.
-- While the queue is paused nothing is routed, and nothing handed out either where the mode is `all`.
--
-- ARGV 1 bridge  2 want  3 intake (tasks routed at most)  4 lease_ms  5 longest lane name in bytes
--      6 payload bytes handed out at most (a longer one is cut; the whole stays in the record)
--      7 bridge_ttl_ms (a bridge silent for longer is forgotten)
--      8 tasks that may wait in a lane, 0 for any number  9 beginning of the lanes for those beyond  10 how many lanes
--      11 taker: as which part of the bridge it takes them
-- Returns {mode of the pause or '', turns}, each turn being
--      {receipt, lane, attempts, seq, first_ms, payload, kept reply or false, missed turns, waited_ms}.

local bridge, want, intake, lease_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local longest_lane, longest_payload, bridge_ttl_ms = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local max_lane, full_lane, full_lanes = tonumber(ARGV[8]), ARGV[9], tonumber(ARGV[10])
local taker = ARGV[11]
local now = now_ms()

-- What no user can be read from gets one of 64 lanes of its own: a flood of it is worked off side by side.
local function lane_of(payload, seq)
    local user = #payload <= longest_payload and read_ids(payload, longest_lane)
    return user and user_lane(user) or ('~' .. (seq % 64))
end

local function route(payload)
    local seq = redis.call('HINCRBY', COUNTERS, 'taken', 1)
    local lane = lane_of(payload, seq)
    if max_lane > 0 and redis.call('LLEN', LANE .. lane) >= max_lane then
        lane = full_lane .. (seq % full_lanes)
    end
    local entry = join_entry(string.format('%d', seq), 0, string.format('%d', now), payload)
    local waiting = redis.call('LPUSH', LANE .. lane, entry)
    if waiting == 1 and redis.call('HEXISTS', LANES, lane) == 0 then
        redis.call('RPUSH', READY, lane)
    end
end

local function hand_out(lane)
    local seq, attempts, first_ms, payload = split_entry(redis.call('RPOP', LANE .. lane))
    attempts = attempts + 1
    local receipt = seq .. '-' .. string.format('%d', redis.call('HINCRBY', COUNTERS, 'handed_out', 1))
    redis.call('HSET', TURNS, receipt, taker .. '\n' .. lane .. '\n' .. join_entry(seq, attempts, first_ms, payload))
    redis.call('HSET', LANES, lane, receipt)
    redis.call('ZADD', LEASES, now + lease_ms, receipt)
    local kept, missed = false, 0
    if #payload > longest_payload then
        payload = string.sub(payload, 1, longest_payload + 1)
    else
        local user, task_id = read_ids(payload, longest_lane)
        if user then
            missed = redis.call('LLEN', MISSED .. user)
            if task_id then
                local escaped = string.gsub(string.gsub(user, '%%', '%%25'), ':', '%%3A')
                kept = redis.call('GET', REPLY .. escaped .. ':' .. task_id)
            end
        end
    end
    return { receipt, lane, attempts, seq, first_ms, payload, kept, missed, now - tonumber(first_ms) }
end

redis.call('ZADD', BRIDGES, now, bridge)
redis.call('ZREMRANGEBYSCORE', BRIDGES, '-inf', now - bridge_ttl_ms)

local expired = redis.call('ZRANGEBYSCORE', LEASES, '-inf', now, 'LIMIT', 0, 100)
for _, receipt in ipairs(expired) do
    local record = redis.call('HGET', TURNS, receipt)
    if record then
        give_back(receipt, record, 0)
        redis.call('HINCRBY', COUNTERS, 'redelivered', 1)
    else
        redis.call('ZREM', LEASES, receipt)
    end
end

local paused = redis.call('HGET', PAUSED, 'mode') or ''
if paused ~= '' then
    intake = 0
    want = paused == 'intake' and want or 0
end

for _ = 1, intake do
    local payload = redis.call('RPOP', INCOMING) or redis.call('RPOP', REQUESTS)
    if not payload then
        break
    end
    route(payload)
end

local turns = {}
while #turns < want do
    local lane = redis.call('LPOP', READY)
    if not lane then
        break
    end
    turns[#turns + 1] = hand_out(lane)
end
return { paused, turns }
