-- Answer a task of the bridge, unless it was answered or withdrawn before.
-- KEYS[1] answer key of the handover
-- ARGV[1] reply   ARGV[2] seconds it is kept
-- ARGV[3..] channel, message, channel, message ... told where the key was free
-- Returns 1 if this answer counts, 0 if nothing was published.
if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'EX', ARGV[2]) then return 0 end
for i = 3, #ARGV, 2 do
  redis.call('PUBLISH', ARGV[i], ARGV[i + 1])
end
return 1
