-- letters: dead letters by position, with as much of their payloads as is asked for. Changes nothing.
--
-- ARGV 1 first  2 last (positions counted from the oldest, which is 1: new letters do not move them)
--      3 bytes of payload at most
-- Returns {{SHA-1 of the letter, JSON line, bytes of payload, head of payload}, …}, oldest first.

local letters = redis.call('LRANGE', DEAD, -tonumber(ARGV[2]), -tonumber(ARGV[1]))
local found = {}
for index = #letters, 1, -1 do
    local letter = letters[index]
    local line = string.find(letter, '\n', 1, true) or #letter + 1
    found[#found + 1] = {
        redis.sha1hex(letter), string.sub(letter, 1, line - 1), math.max(0, #letter - line),
        string.sub(letter, line + 1, line + tonumber(ARGV[3])),
    }
end
return found
