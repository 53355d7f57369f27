-- Replace the oldest messages of a list, or drop them. Messages that arrived meanwhile, at the other end, stay.
-- KEYS[1] list of messages, newest first
-- ARGV[1] the newest message of the part to replace; all behind it goes with it
-- ARGV[2] what takes their place, '' for nothing
-- Returns how many messages were removed; 0 if that message no longer exists, because another instance removed it.
local at = redis.call('LPOS', KEYS[1], ARGV[1])
if not at then return 0 end
local gone = redis.call('LLEN', KEYS[1]) - at
if ARGV[2] ~= '' then
  -- The list must not become empty in between, or its expiry would be lost.
  redis.call('LSET', KEYS[1], at, ARGV[2])
  redis.call('LTRIM', KEYS[1], 0, at)
elseif at == 0 then
  redis.call('DEL', KEYS[1])
else
  redis.call('LTRIM', KEYS[1], 0, at - 1)
end
return gone
