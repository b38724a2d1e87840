-- Appends an entry as it is: KEYS meta, log; ARGV[4] head byte, [5] expires_at (0: as long as a token can live), [6] tail,
-- [7] max token lifetime, [8] if given: the threshold, which the tail begins with, is the clock plus so many seconds. An entry that has expired is dropped.
-- Returns its position, '' if it was dropped.
local meta = load_meta()
local expires_at = tonumber(ARGV[5])
if expires_at == 0 then expires_at = NOW + tonumber(ARGV[7]) + MARGIN end
if expires_at <= NOW then return '' end
local kind = string.byte(ARGV[4]) % 8
if kind == 3 or kind == 4 then check_threshold(struct.unpack('>I4', ARGV[6], 1)) end
local tail = ARGV[6]
if ARGV[8] then tail = seconds(NOW + tonumber(ARGV[8])) .. string.sub(tail, 5) end
append(meta, ARGV[4] .. seconds(expires_at) .. tail)
return meta.last
