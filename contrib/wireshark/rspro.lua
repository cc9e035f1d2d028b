-- SPDX-License-Identifier: GPL-2.0-or-later
--
-- Wireshark dissector for RSPRO, the Remote SIM protocol (asn1/RSPRO.asn), over IPA and TCP.
--
--	cp rspro.lua ~/.local/lib/wireshark/plugins/      for one user; "Global Lua Plugins" of tshark -G folders for all
--	tshark -X lua_script:rspro.lua -r FILE -Y rspro   without that
--
-- TCP ports 9998 and 9999 are RSPRO (preference rspro_ipa.ports); other connections are recognised by their first PDU, or
-- chosen by "Decode As…". What can be filtered by:
--
--	rspro.msg == 12                     messages by number or name: rspro.name == "tpduModemToCard"
--	rspro.client_slot == "C23:0"        all of a client slot; rspro.bank_slot == "B1:5" of a bank slot
--	rspro.client_id == 23, rspro.bank_id == 1, rspro.tag, rspro.result != 0, rspro.features contains "lateAtr", …
--	rspro.tpdu.data[0:2] == a0:a4       commands and answers, which Wireshark's GSM SIM dissector shows in detail
--	rspro.time > 0.5                    answers that took long; those without: rspro.name == "tpduModemToCard" && !rspro.response_in
--	rspro.malformed || rspro.rule       what breaks BER or a rule of the protocol
--
-- An element's description below is what the ASN.1 module says of it. PDUs are read as remsim's programs do: BER with any
-- form of length, strings also in parts; what isn't known is shown as rspro.unknown.

local pdu_proto = Proto("rspro", "Remote SIM protocol")
local ipa_proto = Proto("rspro_ipa", "Remote SIM protocol over IPA")

-- Fields and expert information -------------------------------------------------

local fields, experts = pdu_proto.fields, {}
local F = {}

local function field(name, make, ...)
	F[name] = make("rspro." .. name, ...)
	return F[name]
end

local function number(name, label, names) return field(name, ProtoField.int32, label, base.DEC, names) end
local function text(name, label) return field(name, ProtoField.string, label) end
local function flag(name, label) return field(name, ProtoField.bool, label) end
local function octets(name, label) return field(name, ProtoField.bytes, label) end

local function expert_info(name, label, kind, severity)
	experts[name] = ProtoExpert.new("rspro." .. name, label, kind, severity)
end
expert_info("malformed", "This isn't BER, or not a PDU of RSPRO", expert.group.MALFORMED, expert.severity.ERROR)
expert_info("rule", "This breaks a rule of RSPRO", expert.group.PROTOCOL, expert.severity.WARN)
expert_info("unknown_message", "A message that isn't known", expert.group.UNDECODED, expert.severity.NOTE)
expert_info("refused", "A request was refused", expert.group.RESPONSE_CODE, expert.severity.NOTE)
expert_info("error", "A peer reports an error", expert.group.RESPONSE_CODE, expert.severity.WARN)

-- BER (X.690 clause 8) ----------------------------------------------------------

-- Tags are numbers: class * CLASS + number. Only context tags and universal ones are used.
local CLASS = 2 ^ 28
local function context(n) return 2 * CLASS + n end
local BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING, ENUMERATED, UTF8_STRING, SEQUENCE, IA5_STRING = 1, 2, 3, 4, 10, 12, 16, 22

local function tag_name(tag)
	local class = ({ "UNIVERSAL ", "APPLICATION ", "", "PRIVATE " })[math.floor(tag / CLASS) + 1]
	return string.format("[%s%d]", class, tag % CLASS)
end

local TOO_SHORT = "ends too early"

-- header reads identifier and length octets at an offset, in front of stop. It returns what they say, tag 0 for
-- end-of-contents, or nil and what is wrong with them.
local function header(tvb, at, stop)
	local function octet(i) return tvb(i, 1):uint() end
	if stop - at < 2 then return nil, TOO_SHORT end
	local first = octet(at)
	if first == 0 and octet(at + 1) == 0 then return { tag = 0, content = at + 2, length = 0 } end
	local h = { constructed = math.floor(first / 0x20) % 2 == 1, length = 0 }
	local n, i = first % 0x20, at + 1
	if n == 0x1f then
		n = 0
		repeat
			if i == stop then return nil, TOO_SHORT end
			if n >= CLASS / 128 then return nil, "has a tag that is too large" end
			local o = octet(i)
			n, i = n * 128 + o % 128, i + 1
			if n == 0 then return nil, "has a padded tag" end
		until o < 128
		if n < 0x1f then return nil, "has a padded tag" end
	end
	h.tag = math.floor(first / 0x40) * CLASS + n
	if h.tag == 0 then return nil, "has a tag that is reserved" end

	if i == stop then return nil, TOO_SHORT end
	local l = octet(i)
	i = i + 1
	if l == 0x80 then
		if not h.constructed then return nil, "is primitive and of indefinite length" end
		h.indefinite = true
	elseif l == 0xff then
		return nil, "has a length that is reserved"
	elseif l < 0x80 then
		h.length = l
	else
		for _ = 0x81, l do
			if i == stop then return nil, TOO_SHORT end
			h.length, i = h.length * 256 + octet(i), i + 1
			if h.length > stop then return nil, TOO_SHORT end
		end
	end
	if h.length > stop - i then return nil, TOO_SHORT end
	h.content = i
	return h
end

-- element reads the element at an offset. It returns nil at the end, or nil and what is wrong.
local function element(tvb, at, stop)
	if at == stop then return nil end
	local e, fault = header(tvb, at, stop)
	if not e then return nil, fault end
	if e.tag == 0 then return nil, "has end-of-contents out of place" end
	e.at, e.last = at, e.content + e.length
	e.after = e.last
	local open = e.indefinite and 1 or 0
	while open > 0 do
		local h
		h, fault = header(tvb, e.after, stop)
		if not h then return nil, fault end
		if h.tag == 0 then
			open, e.last = open - 1, e.after
		elseif h.indefinite then
			open = open + 1
		end
		e.after = h.content + h.length
	end
	return e
end

-- join appends the parts of a string in parts to a ByteArray; of a BIT STRING what they begin with, the number of unused
-- bits, goes into bits.unused. It returns what is wrong.
local function join(tvb, at, stop, part, bytes, depth, bits)
	while true do
		local e, fault = element(tvb, at, stop)
		if fault then return "has a part that " .. fault end
		if not e then return nil end
		if e.tag ~= part then return "has a part that is " .. tag_name(e.tag) .. ", want " .. tag_name(part) end
		if e.constructed then
			if depth == 4 then return "has parts that nest deeper than 4" end
			fault = join(tvb, e.content, e.last, part, bytes, depth + 1, bits)
			if fault then return fault end
		else
			local from = e.content
			if bits then
				if from == e.last then return "has a part without octets" end
				if bits.unused and bits.unused > 0 then return "has unused bits in a part before the last" end
				bits.unused, from = tvb(from, 1):uint(), from + 1
			end
			if from < e.last then bytes:append(tvb(from, e.last - from):bytes()) end
		end
		at = e.after
	end
end

-- Reading elements --------------------------------------------------------------

-- hand_on has another dissector show octets. One that finds itself at their end before it expects to shows that in the tree, but
-- also ends in an error here.
local function hand_on(dissector, tvb, pinfo, tree)
	pcall(dissector.call, dissector, tvb, pinfo, tree)
end

-- say adds to the Info column what a frame or PDU is; a segment may have several.
local function say(pinfo, what)
	pinfo.cols.info = pinfo.private["rspro.said"] and " | " .. what or what
	pinfo.cols.info:fence()
	pinfo.private["rspro.said"] = "yes"
end

-- A PDU that is read is { tvb, pinfo, words }: words are what the Info column tells of it.
-- A type is { tag = …, show = function(pdu, tree, element, label) … }: show adds the element to the tree, and
-- returns false where it can't be read, so that what follows has no meaning.

local function range(pdu, e)
	return pdu.tvb(e.at, e.after - e.at)
end

local function malformed(item, label, fault)
	item:add_proto_expert_info(experts.malformed, label .. " " .. fault)
	return false
end

local function rule(item, label, broken)
	item:add_proto_expert_info(experts.rule, label .. " " .. broken)
end

local function bad(pdu, tree, e, label, fault)
	return malformed(tree:add(F.unknown, range(pdu, e)), label, fault)
end

-- primitive returns the octets of an element, nil when there are none.
local function primitive(pdu, tree, e, label)
	if e.constructed then return nil, bad(pdu, tree, e, label, "is constructed, want primitive") end
	if e.length == 0 then return nil, bad(pdu, tree, e, label, "has no octets") end
	return pdu.tvb(e.content, e.length), true
end

-- int returns the number and an item for it in the tree.
local function int(pdu, tree, e, label, f)
	local octets, ok = primitive(pdu, tree, e, label)
	if not ok then return nil end
	local first = octets(0, 1):uint()
	if e.length > 1 then
		local second = octets(1, 1):uint()
		if first == 0 and second < 0x80 or first == 0xff and second >= 0x80 then
			bad(pdu, tree, e, label, "is padded")
			return nil
		end
	end
	if e.length > 4 then
		bad(pdu, tree, e, label, string.format("has %d octets, far out of range", e.length))
		return nil
	end
	local n = octets:int()
	return n, tree:add(f, range(pdu, e), n)
end

local function integer(f, max)
	return { tag = INTEGER, show = function(pdu, tree, e, label)
		local n, item = int(pdu, tree, e, label, f)
		if not n then return false end
		if n < 0 or n > max then rule(item, label, string.format("is %d, want 0..%d", n, max)) end
		return true, n
	end }
end

local function enumerated(f)
	return { tag = ENUMERATED, show = function(pdu, tree, e, label)
		local n, item = int(pdu, tree, e, label, f)
		return n ~= nil, n, item
	end }
end

local function boolean(f)
	return { tag = BOOLEAN, show = function(pdu, tree, e, label)
		local octets, ok = primitive(pdu, tree, e, label)
		if not ok then return false end
		if e.length ~= 1 then return bad(pdu, tree, e, label, string.format("has %d octets, want 1", e.length)) end
		tree:add(f, range(pdu, e), octets:uint() ~= 0)
		return true
	end }
end

-- A string is shown with f, and then given to whoever wants it.
local function string_of(tag, min, max, f, add, also)
	return { tag = tag, show = function(pdu, tree, e, label)
		local octets = pdu.tvb(e.content, e.last - e.content)
		if e.constructed then
			local bytes = ByteArray.new()
			local fault = join(pdu.tvb, e.content, e.last, OCTET_STRING, bytes, 1)
			if fault then return bad(pdu, tree, e, label, fault) end
			octets = bytes:len() > 0 and bytes:tvb(label)() or pdu.tvb(e.content, 0)
		end
		local item = add(tree, f, octets)
		if octets:len() < min or octets:len() > max then
			rule(item, label, string.format("size is %d, want %d..%d", octets:len(), min, max))
		end
		if also then also(pdu, octets, tree, item, label) end
		return true
	end }
end

local function add_text(tree, f, octets)
	return octets:len() > 0 and tree:add_packet_field(f, octets, ENC_UTF_8) or tree:add(f, octets, "")
end

local function is_ascii(_, octets, _, item, label)
	for i = 0, octets:len() - 1 do
		if octets(i, 1):uint() > 0x7f then return rule(item, label, "has characters that are not ASCII") end
	end
end

local function ia5_string(f, max) return string_of(IA5_STRING, 1, max, f, add_text, is_ascii) end
local function is_utf8(_, octets, _, item, label)
	if octets:len() > 0 and octets:string(ENC_UTF_8) ~= octets:raw() then rule(item, label, "is not UTF-8") end
end

local function utf8_string(f) return string_of(UTF8_STRING, 0, math.huge, f, add_text, is_utf8) end

local function octet_string(f, min, max, also)
	return string_of(OCTET_STRING, min, max, f, function(tree, _, octets) return tree:add(f, octets) end, also)
end

-- Named bits are shown as their names.
local function named_bits(f, names)
	return { tag = BIT_STRING, show = function(pdu, tree, e, label)
		local bytes, bits = ByteArray.new(), {}
		local fault
		if e.constructed then
			fault = join(pdu.tvb, e.content, e.last, BIT_STRING, bytes, 1, bits)
		elseif e.length > 0 then
			bits.unused = pdu.tvb(e.content, 1):uint()
			if e.length > 1 then bytes = pdu.tvb(e.content + 1, e.length - 1):bytes() end
		end
		if not fault and not bits.unused then
			fault = "has no octets"
		elseif not fault and (bits.unused > 7 or bits.unused > bytes:len() * 8) then
			fault = string.format("has %d unused bits in %d octets", bits.unused, bytes:len())
		end
		if fault then return bad(pdu, tree, e, label, fault) end
		local set = {}
		for i = 0, bytes:len() * 8 - bits.unused - 1 do
			if math.floor(bytes:get_index(math.floor(i / 8)) / 2 ^ (7 - i % 8)) % 2 == 1 then
				table.insert(set, names[i] or "bit " .. i)
			end
		end
		tree:add(f, range(pdu, e), table.concat(set, ","))
		return true
	end }
end

-- A member of a type is { name, type, tag = context tag in place of the type's, optional = …, extension = … }.
-- members reads those of an element; it returns their values by name.
local function members(pdu, tree, e, list, closed)
	local at, values = e.content, {}
	local function unknown(x)
		local item = tree:add(F.unknown, pdu.tvb(x.at, x.after - x.at)):append_text(" " .. tag_name(x.tag))
		if closed then rule(item, tag_name(x.tag), "doesn't belong here") end
		at = x.after
	end
	for _, m in ipairs(list) do
		local want = m.tag and context(m.tag) or m.type.tag
		local x, fault = element(pdu.tvb, at, e.last)
		if m.extension then -- behind elements of who knows what
			local i, y = at, x
			while y and y.tag ~= want do
				i = y.after
				y = element(pdu.tvb, i, e.last)
			end
			while y and at < i do
				unknown(x)
				x = element(pdu.tvb, at, e.last)
			end
		end
		if fault then return malformed(tree, m[1], fault) end
		if x and (m.type.tags and m.type.tags[x.tag] or x.tag == want) then
			local ok, value = m.type.show(pdu, tree, x, m[1])
			if not ok then return false end
			values[m[1]], at = value, x.after
		elseif not m.optional then
			return malformed(tree, m[1], x and "is missing, " .. tag_name(x.tag) .. " is in its place" or "is missing")
		end
	end
	while true do
		local x, fault = element(pdu.tvb, at, e.last)
		if fault then return malformed(tree, "the end", fault) end
		if not x then return true, values end
		unknown(x)
	end
end

local function constructed(pdu, tree, e, label)
	return e.constructed or bad(pdu, tree, e, label, "is primitive, want constructed")
end

-- A sequence is a branch of the tree; done, if there is one, gets the branch and the values of the members, and returns the
-- value of the whole.
local function sequence(list, done, closed)
	return { tag = SEQUENCE, show = function(pdu, tree, e, label)
		if not constructed(pdu, tree, e, label) then return false end
		local item = tree:add(range(pdu, e), label)
		local ok, values = members(pdu, item, e, list, closed)
		return ok, ok and done and done(pdu, item, values) or values
	end }
end

local function sequence_of(type, max)
	return { tag = SEQUENCE, show = function(pdu, tree, e, label)
		if not constructed(pdu, tree, e, label) then return false end
		local item, at, n = tree:add(range(pdu, e), label), e.content, 0
		while true do
			local x, fault = element(pdu.tvb, at, e.last)
			if fault then return malformed(item, label, fault) end
			if not x then break end
			local name = string.format("%s[%d]", label, n)
			if x.tag ~= type.tag then return bad(pdu, item, x, name, "is missing, " .. tag_name(x.tag) .. " is in its place") end
			if not type.show(pdu, item, x, name) then return false end
			at, n = x.after, n + 1
		end
		item:append_text(": " .. n)
		if n > max then rule(item, label, string.format("has more than %d items", max)) end
		return true
	end }
end

-- The types of RSPRO ------------------------------------------------------------

local RESULTS = {
	[0] = "ok", [1] = "illegalClientId", [2] = "illegalBankId", [3] = "illegalSlotId", [4] = "unsupportedProtocolVersion",
	[5] = "unknownSlotmap", [6] = "identityInUse", [100] = "cardNotPresent", [101] = "cardUnresponsive",
	[102] = "cardTransmissionError",
}
local COMPONENTS = { [0] = "remsimClient", [1] = "remsimServer", [2] = "remsimBankd" }
local CODES = { [1] = "unknownClientConnected", [2] = "unexpectedDisconnect", [3] = "unexpectedProtocolVersion" }
local SEVERITIES = { [1] = "minor", [2] = "major", [3] = "fatal" }
local FEATURES = { [0] = "atrAfterReset", [1] = "lateAtr", [2] = "bankState" }

field("unknown", ProtoField.bytes, "Unknown element")

-- slot_type is BankSlot or ClientSlot: besides their numbers there is their name, such as B1:5 or C23:0.
local function slot_type(what, label, letter, id)
	local name = text(what .. "_slot", label .. " slot")
	return sequence({
		{ id, type = integer(number(what .. "_id", label .. " id"), 1023) },
		{ "slotNr", type = integer(number(what .. "_slot_nr", label .. " slot number"), 1023) },
	}, function(pdu, item, v)
		local slot = string.format("%s%d:%d", letter, v[id], v.slotNr)
		item:append_text(": " .. slot):add(name, slot):set_generated()
		table.insert(pdu.words, slot)
		return slot
	end)
end
local bank_slot = slot_type("bank", "Bank", "B", "bankId")
local client_slot = slot_type("client", "Client", "C", "clientId")
local bank_id = integer(F.bank_id, 1023)

local component_type = enumerated(number("component_type", "Kind of program", COMPONENTS))

local function name_of(name, label) return ia5_string(text("identity." .. name, label), 32) end
local identity = sequence {
	{ "type", type = component_type },
	{ "name", type = name_of("name", "Host") },
	{ "software", tag = 0, type = name_of("software", "Program") },
	{ "swVersion", tag = 1, type = name_of("sw_version", "Version") },
	{ "hwManufacturer", tag = 2, optional = true, type = name_of("hw_manufacturer", "Hardware manufacturer") },
	{ "hwModel", tag = 3, optional = true, type = name_of("hw_model", "Hardware model") },
	{ "hwSerialNr", tag = 4, optional = true, type = name_of("hw_serial_nr", "Hardware serial number") },
	{ "hwVersion", tag = 5, optional = true, type = name_of("hw_version", "Hardware version") },
	{ "fwVersion", tag = 6, optional = true, type = name_of("fw_version", "Firmware version") },
}

local function address(f, size)
	return string_of(OCTET_STRING, size, size, f, function(tree, _, octets)
		return tree:add(octets:len() == size and f or F.unknown, octets)
	end)
end
local ipv4 = address(field("ipv4", ProtoField.ipv4, "IPv4 address"), 4)
local ipv6 = address(field("ipv6", ProtoField.ipv6, "IPv6 address"), 16)
local ip_address = { tags = { [context(0)] = ipv4, [context(1)] = ipv6 } } -- a CHOICE
function ip_address.show(pdu, tree, e, label) return ip_address.tags[e.tag].show(pdu, tree, e, label) end
local ip_port = sequence({
	{ "ip", type = ip_address },
	{ "port", type = integer(number("port", "Port"), 65535) },
}, nil, true)

local features = named_bits(text("features", "Features"), FEATURES)

local result_code = enumerated(number("result", "Result", RESULTS))
local result = { tag = ENUMERATED, show = function(pdu, tree, e, label)
	local ok, n, item = result_code.show(pdu, tree, e, label)
	if not ok then return false end
	local name = RESULTS[n] or "result " .. n
	table.insert(pdu.words, name)
	if n ~= 0 then item:add_proto_expert_info(experts.refused, "Refused: " .. name) end
	return true
end }

local atr_dissector = Dissector.get("iso7816.atr")
local atr = octet_string(octets("atr", "ATR"), 1, 55, function(pdu, octets, tree)
	if octets:len() > 0 then hand_on(atr_dissector, octets:tvb(), pdu.pinfo, tree) end
end)

local tpdu_flags = sequence {
	{ "tpduHeaderPresent", type = boolean(flag("tpdu.header_present", "Header present")) },
	{ "finalPart", type = boolean(flag("tpdu.final_part", "Final part")) },
	{ "procByteContinueTx", type = boolean(flag("tpdu.proc_byte_continue_tx", "Procedure byte, continue with transmission")) },
	{ "procByteContinueRx", type = boolean(flag("tpdu.proc_byte_continue_rx", "Procedure byte, continue with reception")) },
}
local tpdu_data = octet_string(octets("tpdu.data", "Data"), 0, math.huge, function(pdu, octets) pdu.tpdu = octets end)

local present = boolean(flag("card_present", "Card present"))
local slot_phys_status = sequence {
	{ "resetActive", tag = 0, type = boolean(flag("reset_active", "RST active")) },
	{ "vccPresent", tag = 1, optional = true, type = boolean(flag("vcc_present", "VCC present")) },
	{ "clkActive", tag = 2, optional = true, type = boolean(flag("clk_active", "CLK active")) },
	{ "cardPresent", tag = 3, optional = true, type = present },
}

local slotmap = sequence { { "client", type = client_slot }, { "bank", type = bank_slot } }
local error_string = ia5_string(text("error_string", "Error"), 255)
local slot_info = sequence {
	{ "slotNr", type = integer(F.bank_slot_nr, 1023) },
	{ "present", type = present },
	{ "reader", tag = 0, optional = true, type = utf8_string(text("reader", "Reader")) },
	{ "atr", tag = 1, optional = true, type = atr },
	{ "error", tag = 2, optional = true, type = error_string },
}

-- The messages by their tag in the choice: name, members, and for requests the tag of what answers them.
local FEATURES_MEMBER = { "features", tag = 101, optional = true, extension = true, type = features }
local CLIENT_BANK = { { "client", type = client_slot }, { "bank", type = bank_slot } }
local RESULT = { { "result", type = result } }
local MESSAGES = {
	[0] = { "connectBankReq", {
		{ "identity", type = identity },
		{ "bankId", type = bank_id },
		{ "numberOfSlots", type = integer(number("number_of_slots", "Number of slots"), 1023) },
		{ "endpoint", tag = 100, optional = true, extension = true, type = ip_port },
		FEATURES_MEMBER,
	}, answer = 1, first = true },
	[1] = { "connectBankRes", { { "identity", type = identity }, RESULT[1], FEATURES_MEMBER } },
	[2] = { "connectClientReq", {
		{ "identity", type = identity },
		{ "clientSlot", optional = true, type = client_slot },
		FEATURES_MEMBER,
	}, answer = 3, first = true },
	[3] = { "connectClientRes", { { "identity", type = identity }, RESULT[1], FEATURES_MEMBER } },
	[4] = { "createMappingReq", CLIENT_BANK, answer = 5 },
	[5] = { "createMappingRes", RESULT },
	[6] = { "removeMappingReq", CLIENT_BANK, answer = 7 },
	[7] = { "removeMappingRes", RESULT },
	[8] = { "configClientIdReq", { { "clientSlot", type = client_slot } }, answer = 9 },
	[9] = { "configClientIdRes", RESULT },
	[10] = { "setAtrReq", { { "slot", type = client_slot }, { "atr", type = atr } }, answer = 11 },
	[11] = { "setAtrRes", RESULT },
	[12] = { "tpduModemToCard", {
		{ "fromClientSlot", type = client_slot },
		{ "toBankSlot", type = bank_slot },
		{ "flags", type = tpdu_flags },
		{ "data", type = tpdu_data },
	}, answer = 13, single = true },
	[13] = { "tpduCardToModem", {
		{ "fromBankSlot", type = bank_slot },
		{ "toClientSlot", type = client_slot },
		{ "flags", type = tpdu_flags },
		{ "data", type = tpdu_data },
	} },
	[14] = { "clientSlotStatusInd", {
		{ "fromClientSlot", type = client_slot },
		{ "toBankSlot", type = bank_slot },
		{ "slotPhysStatus", type = slot_phys_status },
	} },
	[15] = { "bankSlotStatusInd", {
		{ "fromBankSlot", type = bank_slot },
		{ "toClientSlot", type = client_slot },
		{ "slotPhysStatus", type = slot_phys_status },
	} },
	[16] = { "errorInd", {
		{ "sender", type = component_type },
		{ "severity", type = enumerated(number("error_severity", "Severity", SEVERITIES)) },
		{ "code", type = enumerated(number("error_code", "Code", CODES)) },
		{ "bankSlot", tag = 0, optional = true, type = bank_slot },
		{ "clientSlot", tag = 1, optional = true, type = client_slot },
		{ "errorString", tag = 2, optional = true, type = error_string },
	} },
	[17] = { "configClientBankReq", { { "bankSlot", type = bank_slot }, { "bankd", type = ip_port } }, answer = 18 },
	[18] = { "configClientBankRes", RESULT },
	[19] = { "resetStateReq", {}, answer = 20 },
	[20] = { "resetStateRes", RESULT },
	[100] = { "bankSlotmapsInd", {
		{ "maps", type = sequence_of(slotmap, 40) },
		{ "last", type = boolean(flag("last", "Last of the series")) },
	} },
	[101] = { "bankSlotInfoInd", { { "slots", type = sequence_of(slot_info, 8) } } },
}
local NAMES = {}
for n, m in pairs(MESSAGES) do NAMES[n] = m[1] end

-- Requests and their answers ----------------------------------------------------

-- What waits for an answer, by connection and number of the answer, oldest first; and which PDU was found to belong to
-- which, by frame and place in it.
local waiting, partners = {}, {}

function pdu_proto.init()
	waiting, partners = {}, {}
end

-- connection returns what is the same for both directions.
local function connection(pinfo)
	local from = tostring(pinfo.src) .. " " .. pinfo.src_port
	local to = tostring(pinfo.dst) .. " " .. pinfo.dst_port
	return from < to and from .. " " .. to or to .. " " .. from
end

field("request_in", ProtoField.framenum, "Request in", base.NONE, frametype.REQUEST)
field("response_in", ProtoField.framenum, "Response in", base.NONE, frametype.RESPONSE)
field("time", ProtoField.relative_time, "Time since the request")

-- pair finds the request of an answer when frames are read for the first time: as remsim's programs do, the one with
-- its tag or, as peers answer with other tags, the oldest. A command waits alone: what it replaces gets no answer. A connection
-- begins with a request to connect.
local function pair(pdu, n, tag)
	if pdu.pinfo.visited then return end
	local m, conn = MESSAGES[n], connection(pdu.pinfo)
	if not waiting[conn] or m.first then waiting[conn] = {} end
	local queues = waiting[conn]
	if m.answer then
		if m.single or not queues[m.answer] then queues[m.answer] = {} end
		local request = { tag = tag, frame = pdu.pinfo.number, at = pdu.pinfo.rel_ts, command = pdu.tpdu and pdu.tpdu:bytes() }
		table.insert(queues[m.answer], request)
		partners[pdu.key] = request
		return
	end
	local q = queues[n] or {}
	local found = q[1] and 1
	for i, request in ipairs(q) do
		if request.tag == tag then
			found = i
			break
		end
	end
	if found then
		local request = table.remove(q, found)
		request.response = pdu.pinfo.number
		partners[pdu.key] = { request = request, time = pdu.pinfo.rel_ts - request.at }
	end
end

local function show_partner(tree, partner)
	if partner and partner.request then
		local seconds = math.floor(partner.time)
		tree:add(F.request_in, partner.request.frame):set_generated()
		tree:add(F.time, NSTime.new(seconds, math.floor((partner.time - seconds) * 1e9 + 0.5))):set_generated()
	elseif partner and partner.response then
		tree:add(F.response_in, partner.response):set_generated()
	end
end

-- A command is shown by the GSM SIM dissector, and so is an answer: one with data together with its command, without which
-- data say little.
local command_dissector, response_dissector = Dissector.get("gsm_sim.command"), Dissector.get("gsm_sim.response")
local both_dissector = Dissector.get("gsm_sim")

local function show_tpdu(pdu, n, partner, root)
	if not pdu.tpdu or pdu.tpdu:len() == 0 then return end
	local command = partner and partner.request and partner.request.command
	if n == 12 then
		hand_on(command_dissector, pdu.tpdu:tvb(), pdu.pinfo, root)
	elseif command and pdu.tpdu:len() > 2 then
		hand_on(both_dissector, (command .. pdu.tpdu:bytes()):tvb("Command and answer"), pdu.pinfo, root)
	else
		hand_on(response_dissector, pdu.tpdu:tvb(), pdu.pinfo, root)
	end
end

-- The PDU -----------------------------------------------------------------------

number("msg", "Message", NAMES)
text("name", "Message")
local VERSION = { "version", tag = 0, type = integer(number("version", "Version"), 32) }
local TAG = { "tag", tag = 1, type = integer(number("tag", "Tag"), 2147483647) }

-- message reads the one element of msg, which is the CHOICE.
local function message(pdu, tree, e, label)
	if not constructed(pdu, tree, e, label) then return false end
	local x, fault = element(pdu.tvb, e.content, e.last)
	if not x then return malformed(tree, label, fault or "is missing") end
	if math.floor(x.tag / CLASS) ~= 2 then
		return bad(pdu, tree, x, label, "is missing, " .. tag_name(x.tag) .. " is in its place")
	end
	local n = x.tag % CLASS
	local m = MESSAGES[n]
	pdu.msg, pdu.name = n, m and m[1] or "message " .. n
	tree:add(F.msg, range(pdu, x), n)
	tree:add(F.name, pdu.name):set_generated()
	local ok = true
	if not m then
		tree:add(F.unknown, range(pdu, x)):add_proto_expert_info(experts.unknown_message, pdu.name .. " isn't known")
	elseif constructed(pdu, tree, x, m[1]) then
		local item = tree:add(range(pdu, x), m[1])
		ok = members(pdu, item, x, m[2])
		if n == 16 then item:add_proto_expert_info(experts.error) end
	else
		ok = false
	end
	local y, more = element(pdu.tvb, x.after, e.last)
	if more then return malformed(tree, label, more) end
	if y then return bad(pdu, tree, y, label, "is followed by " .. tag_name(y.tag)) end
	return ok
end
local MSG = { "msg", tag = 2, type = { show = message } }

function pdu_proto.dissector(tvb, pinfo, root)
	-- The place of this PDU in its frame: private is kept as long as one reading of a frame.
	local nth = (tonumber(pinfo.private["rspro.nth"]) or 0) + 1
	pinfo.private["rspro.nth"] = tostring(nth)
	local pdu = { tvb = tvb, pinfo = pinfo, words = {}, key = pinfo.number .. "/" .. nth }

	local tree = root:add(pdu_proto, tvb())
	local e, fault = element(tvb, 0, tvb:len())
	local ok, values
	if not e then
		malformed(tree, "RsproPDU", fault or "is missing")
	elseif e.tag ~= SEQUENCE then
		malformed(tree, "RsproPDU", "is missing, " .. tag_name(e.tag) .. " is in its place")
	elseif constructed(pdu, tree, e, "RsproPDU") then
		ok, values = members(pdu, tree, e, { VERSION, TAG, MSG })
		if e.after < tvb:len() then malformed(tree, "RsproPDU", "is followed by more") end
	end

	local partner
	if ok and MESSAGES[pdu.msg] then
		pair(pdu, pdu.msg, values.tag)
		partner = partners[pdu.key]
		show_partner(tree, partner)
	end
	table.insert(pdu.words, 1, pdu.name or "malformed PDU")
	local info = table.concat(pdu.words, " ")
	tree:append_text(": " .. info)
	say(pinfo, info .. (ok and pdu.tpdu and ", " or ""))
	if ok then show_tpdu(pdu, pdu.msg, partner, root) end
	pinfo.cols.protocol = "RSPRO"
	return tvb:len()
end
DissectorTable.get("ipa.osmo.protocol"):add(7, pdu_proto)

-- Frames ------------------------------------------------------------------------

local HEADER = 3
local CCM, OSMO, RSPRO = 0xfe, 0xee, 7
local ipa = {
	length = ProtoField.uint16("rspro_ipa.length", "Length"),
	stream = ProtoField.uint8("rspro_ipa.stream", "Stream", base.HEX, { [CCM] = "CCM", [OSMO] = "OSMO extension" }),
	extension = ProtoField.uint8("rspro_ipa.extension", "Extension", base.HEX, { [RSPRO] = "RSPRO" }),
	ccm = ProtoField.uint8("rspro_ipa.ccm", "Connection control", base.HEX,
		{ [0] = "PING", [1] = "PONG", [4] = "ID_GET", [5] = "ID_RESP", [6] = "ID_ACK" }),
	item = ProtoField.uint8("rspro_ipa.item", "Item", base.HEX, {
		[0] = "serial number", [1] = "unit name", [2] = "location", [3] = "unit type", [4] = "equipment version",
		[5] = "software version", [6] = "IP address", [7] = "MAC address", [8] = "unit id",
	}),
	value = ProtoField.string("rspro_ipa.value", "Value"),
	data = ProtoField.bytes("rspro_ipa.data", "Contents"),
}
ipa_proto.fields = ipa
local bad_frame = ProtoExpert.new("rspro_ipa.frame", "This isn't a frame of RSPRO", expert.group.MALFORMED, expert.severity.ERROR)
local cut_off = ProtoExpert.new("rspro_ipa.cut_off", "More isn't in the trace", expert.group.UNDECODED, expert.severity.NOTE)
ipa_proto.experts = { bad_frame, cut_off }
ipa_proto.prefs.ports = Pref.range("TCP ports", "9998-9999", "What is RSPRO without being asked", 65535)

local function frame_length(tvb, _, offset)
	return HEADER + (tvb:len() >= offset + 2 and tvb(offset, 2):uint() or 0)
end

local function no_frame(item, pinfo, what)
	item:add_proto_expert_info(bad_frame, what)
	say(pinfo, what)
end

-- ccm shows a message of connection control. Items of ID_GET have a length of one octet, those of ID_RESP one of two, and a value.
local function ccm(tvb, pinfo, tree)
	local type = tvb(HEADER, 1):uint()
	local name = ({ [0] = "PING", [1] = "PONG", [4] = "ID_GET", [5] = "ID_RESP", [6] = "ID_ACK" })[type]
	tree:add(ipa.ccm, tvb(HEADER, 1))
	if not name then return no_frame(tree, pinfo, string.format("Connection control %02x isn't known", type)) end
	say(pinfo, name)
	local at, size = HEADER + 1, type == 4 and 1 or 2
	if type ~= 4 and type ~= 5 then return end
	while at < tvb:len() do
		local length = at + size < tvb:len() and tvb(at, size):uint() or 0
		if length == 0 or at + size + length > tvb:len() then
			return no_frame(tree, pinfo, name .. " with an item that ends too early")
		end
		tree:add(ipa.item, tvb(at + size, 1))
		if length > 1 then tree:add(ipa.value, tvb(at + size + 1, length - 1)) end
		at = at + size + length
	end
end

local function frame(tvb, pinfo, root)
	local tree = root:add(ipa_proto, tvb())
	if tvb:len() < HEADER then
		no_frame(tree, pinfo, "A frame without an end")
		return tvb:len()
	end
	local stream, length = tvb(2, 1):uint(), tvb:len() - HEADER
	local extension = stream == OSMO and length > 0 and tvb(HEADER, 1):uint()
	tree:add(ipa.length, tvb(0, 2))
	tree:add(ipa.stream, tvb(2, 1))
	if extension then tree:add(ipa.extension, tvb(HEADER, 1)) end
	if length == 0 then
		no_frame(tree, pinfo, "A frame without contents")
	elseif stream == CCM then
		ccm(tvb, pinfo, tree)
	elseif extension == RSPRO and length == 1 then
		no_frame(tree, pinfo, "A frame without a PDU")
	elseif extension == RSPRO then
		pdu_proto.dissector(tvb(HEADER + 1):tvb(), pinfo, root)
	else
		tree:add(ipa.data, tvb(HEADER))
		no_frame(tree, pinfo, extension and string.format("Extension %02x isn't RSPRO", extension)
			or string.format("Stream %02x isn't RSPRO", stream))
	end
	pinfo.cols.protocol = "RSPRO"
	return tvb:len()
end

function ipa_proto.dissector(tvb, pinfo, root)
	-- Where there should be more, but the trace lacks it, comes an error without a text.
	local ok, err = pcall(dissect_tcp_pdus, tvb, root, HEADER, frame_length, frame)
	if not ok and err then error(err, 0) end
	if not ok then root:add(ipa_proto, tvb()):add_proto_expert_info(cut_off) end
	return tvb:len()
end

-- A connection is RSPRO when a segment begins with a frame of its stream and extension, a SEQUENCE and a version.
ipa_proto:register_heuristic("tcp", function(tvb, pinfo, root)
	if tvb:len() < 10 or tvb(2, 3):uint() ~= 0xee0730 then return false end
	local e = header(tvb, 4, tvb:len()) or header(tvb(4):tvb(), 0, tvb:len())
	if not e or e.content + 3 > tvb:len() or tvb(e.content, 2):uint() ~= 0x8001 then return false end
	pinfo.conversation = ipa_proto
	ipa_proto.dissector(tvb, pinfo, root)
	return true
end)

local tcp_ports, ports = DissectorTable.get("tcp.port"), ipa_proto.prefs.ports
tcp_ports:add(ports, ipa_proto)
function ipa_proto.prefs_changed()
	tcp_ports:remove(ports, ipa_proto)
	ports = ipa_proto.prefs.ports
	tcp_ports:add(ports, ipa_proto)
end

local all = {}
for _, f in pairs(F) do table.insert(all, f) end
pdu_proto.fields = all
pdu_proto.experts = experts
