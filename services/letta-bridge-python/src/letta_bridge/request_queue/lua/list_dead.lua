-- list_dead: a page of dead letters by position, with the beginning of their payloads. Changes nothing.
--
-- ARGV 1 first  2 last (positions counted from the oldest, which is 1: new letters do not move them); from newer to older
--      where `first` is greater
--      3 bytes of payload at most
-- Returns {{digest of the letter, JSON line, bytes of payload, head of payload}, …} in that order. The page ends early
-- behind the letter that brings it to PAGE_BYTES: Redis serves nobody else meanwhile. It is empty only past the end.

local first, last, head = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local PAGE_BYTES = 1048576
-- Bridges write no longer first lines.
local LONGEST_LINE = 65536

local found, touched = {}, 0
for position = first, last, first <= last and 1 or -1 do
    local letter = redis.call('LINDEX', DEAD, -position)
    if not letter then
        break
    end
    local line = string.find(letter, '\n', 1, true) or #letter + 1
    found[#found + 1] = {
        letter_digest(letter), line <= LONGEST_LINE and string.sub(letter, 1, line - 1) or '',
        math.max(0, #letter - line), string.sub(letter, line + 1, line + head),
    }
    touched = touched + #letter
    if touched >= PAGE_BYTES then
        break
    end
end
return found
