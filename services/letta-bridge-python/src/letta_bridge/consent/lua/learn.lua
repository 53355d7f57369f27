-- learn: enter choices known from elsewhere where they win: the later one, and of two equally late the one that refuses.
-- An entry that cannot be read is left: it counts as a refusal until somebody chooses anew. Repeating it is harmless.
--
-- ARGV 1 name for a new hash  2 '1' where somebody has chosen anew  3… user key, '0' or '1', chosen_ms of each choice
-- Returns {complete, born, changes}.

name_it(ARGV[1])
for at = 3, #ARGV, 3 do
    local user_key, state, chosen_ms = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
    local entered, entered_ms, readable = read_entry(user_key)
    local later = not entered or chosen_ms > entered_ms
    local stricter = entered == '1' and state == '0' and chosen_ms == entered_ms
    if (readable or ARGV[2] == '1') and (later or stricter) then
        write_entry(user_key, state, chosen_ms, ARGV[1])
    end
end
return redis.call('HMGET', CHOICES, 'complete', 'born', 'changes')
