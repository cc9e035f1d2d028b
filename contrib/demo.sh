#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Shows a remote SIM at work on this computer alone: a server, a bankd with two cards and a
# client with a shell in place of the modem. The cards are software; with PCSC=1 they
# are in virtual readers of a real pcscd. Ends with status 1 when anything isn't as it should be.
# shellcheck disable=SC2154 # now sets the variable that it is given, coproc shell_PID
set -euo pipefail
export LC_ALL=C
cd "$(dirname "$0")/.."

PCSC=${PCSC:-}
if [ -n "$PCSC" ]; then
	bin=.cache/demo-pcsc cgo=1
else
	bin=.cache/demo cgo=0
fi
mkdir -p "$bin"

# The cards, as remsim-simulator makes them: ICCID and IMSI tell them apart; key, challenge and
# answer are of 3GPP TS 35.208, test set 1.
iccid=(8988211000000000000 8988211000000000001)
imsi=(001010000000000 001010000000001)
ki=465b5ce8b199b49faa5f0a2ee238a6bc
opc=cd63cb71954a9f4e48a5994e37a02baf
rand=23553cbe9637a89d218ae64dae47bf35
autn=55f328b43577b9b94a9ffac354dfafb3
res=a54211d5e3ba50bf

if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' cyan=$'\e[36m' plain=$'\e[0m'; else bold='' dim='' cyan='' plain=''; fi

# now: the time in µs. Without a subshell it would take longer than what it measures.
now() { printf -v "$1" %s "${EPOCHREALTIME/./}"; }
# since TIME: how long that is ago.
since() {
	local t
	now t
	took $((t - $1))
}
# took MICROSECONDS: as text.
took() {
	if (($1 < 1000000)); then
		printf '%d.%02d ms' $(($1 / 1000)) $(($1 % 1000 / 10))
	else
		printf '%d.%d s' $(($1 / 1000000)) $(($1 % 1000000 / 100000))
	fi
}

title() { printf '\n%s%s%s\n' "$bold" "$1" "$plain"; }
# row WHAT DETAIL TIME: a line of a step.
row() { printf '  %-15s %-50s %s%9s%s\n' "$1" "$2" "$dim" "${3:-}" "$plain"; }
# result TEXT: what came out of it.
result() { printf '  %-15s %s%s%s%s\n' '' "$bold" "$1" "$plain" "${2:+   $2}"; }

dir=$(mktemp -d)
pids=()
# finish ends all that was started, the last first, and says so.
finish() {
	status=$?
	trap - EXIT INT TERM
	set +e
	for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
		kill "${pids[i]}" 2>/dev/null
		for ((n = 0; n < 60; n++)); do
			kill -0 "${pids[i]}" 2>/dev/null || break
			sleep 0.1
		done
		if kill -KILL "${pids[i]}" 2>/dev/null; then
			echo "demo: process ${pids[i]} had to be killed" >&2
			status=1
		fi
	done
	if [ "$status" -ne 0 ]; then
		for log in "$dir"/*.log; do
			printf '\n%s\n' "--- ${log##*/}"
			tail -n 20 "$log"
		done >&2
		echo "demo: failed" >&2
	fi
	rm -rf "$dir"
	exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
die() {
	echo "demo: $*" >&2
	exit 1
}

# start NAME ARG...: runs a program in the background, its log in a file.
start() {
	local name=$1
	shift
	# Made here, since the background process may begin later than await looks.
	: >"$dir/$name.out"
	: >"$dir/$name.log"
	"$bin/$name" "$@" >"$dir/$name.out" 2>"$dir/$name.log" &
	pids+=($!)
}
# await NAME TEXT: waits for the first line of the program's log or output with TEXT in it and
# keeps it in $line.
await() {
	local n
	for ((n = 0; n < 1500; n++)); do
		if line=$(grep -h -m 1 -F "$2" "$dir/$1.log" "$dir/$1.out"); then return; fi
		kill -0 "${pids[-1]}" 2>/dev/null || die "$1 has ended: $(tail -n 1 "$dir/$1.log")"
		sleep 0.01
	done
	die "$1 didn't say \"$2\" within 15 s"
}
# address: the address that $line tells.
address() { sed -n 's/.* addr="\{0,1\}\([^" ]*\).*/\1/p' <<<"$line"; }
api() { "$bin/remsim-apitool" -H "${rest%:*}" -p "${rest##*:}" "$@"; }

# map SLOT: maps the card there to the client and waits until the modem has its ATR.
map() {
	local t0 t1
	now t0
	api -m 1 "$1" 23 0
	now t1
	row 'api tool' "-m 1 $1 23 0: bank 1 slot $1 for client 23 slot 0" "$(took $((t1 - t0)))"
	hear 'SET_ATR: ' # the default one, until the card's is there
	hear 'SET_ATR: '
	row 'SET_ATR' "$said" "$(since "$t1")"
}

# The shell client is a coprocess: commands go in, lines of its output come back.
hear() { # hear PREFIX: the rest of the next line, which has to begin so, into $said
	IFS= read -r -t 30 said <&"${shell[0]}" || die "no answer from the client"
	[[ $said == "$1"* ]] || die "the client says \"$said\" where \"$1\" was expected"
	said=${said#"$1"}
	said=${said// /}
}
# tpdu NAME COMMAND STATUS: one command to the card, whose response has to end with STATUS (a
# pattern); the data goes into $data, the status into $sw.
tpdu() {
	local t0 t1 command=${2// /} answer
	now t0
	echo "$command" >&"${shell[1]}"
	hear 'R-APDU: '
	now t1
	trips+=($((t1 - t0)))
	data=${said%????} sw=${said: -4}
	answer="${data:+$data }$sw"
	((${#command} > 24)) && command=${command:0:22}..
	((${#answer} > 25)) && answer="${data:0:18}.. $sw"
	printf '  %-15s %-24s %s%-25s %s%9s%s\n' "$1" "$command" "$cyan" "$answer" "$plain$dim" "$(took $((t1 - t0)))" "$plain"
	# shellcheck disable=SC2053 # STATUS is a pattern
	[[ $sw == $3 ]] || die "$1: the card answers $sw, want $3"
}
# swap: digits of bytes with their halves exchanged, as EF.ICCID and EF.IMSI have them.
swap() { sed 's/\(.\)\(.\)/\2\1/g; s/f*$//' <<<"$1"; }

# identify SLOT: reads ICCID and IMSI and tells whether they are those of the card in SLOT.
identify() {
	tpdu 'SELECT EF.ICCID' 'a0 a4 00 00 02 2f e2' '9f*'
	tpdu 'READ BINARY' 'a0 b0 00 00 0a' 9000
	local got
	got=$(swap "$data")
	result "ICCID $got"
	[ "$got" = "${iccid[$1]}" ] || die "ICCID $got isn't ${iccid[$1]}, which the card in slot $1 has"
	tpdu 'SELECT DF.GSM' 'a0 a4 00 00 02 7f 20' '9f*'
	tpdu 'SELECT EF.IMSI' 'a0 a4 00 00 02 6f 07' '9f*'
	tpdu 'READ BINARY' 'a0 b0 00 00 09' 9000
	got=$(swap "${data:2}")
	got=${got:1} # after the type of identity
	result "IMSI  $got" "country ${got:0:3}, network ${got:3:2}"
	[ "$got" = "${imsi[$1]}" ] || die "IMSI $got isn't ${imsi[$1]}, which the card in slot $1 has"
	tpdu 'SELECT MF' 'a0 a4 00 00 02 3f 00' '9f*'
}

title 'Building'
now began
CGO_ENABLED=$cgo go build -buildvcs=false -o "$bin/" ./cmd/...
row "$(find "$bin" -type f | wc -l) programs" "$bin" "$(since "$began")"

title 'Starting'
if [ -n "$PCSC" ]; then
	now t0
	start remsim-simulator pcscd --count 2
	await remsim-simulator PCSCLITE_CSOCK_NAME=
	export "${line?}"
	row pcscd '2 cards in virtual readers' "$(since "$t0")"
fi
for i in 0 1; do
	if [ -n "$PCSC" ]; then
		echo "\"1\",\"$i\",\"^Virtual SIM reader A .*0$i\$\""
	else
		echo "\"1\",\"$i\",\"softsim:iccid=${iccid[i]},imsi=${imsi[i]},ki=$ki,opc=$opc\""
	fi
done >"$dir/slots.csv"

now t0
start remsim-server --rspro-listen 127.0.0.1:0 --rest-listen 127.0.0.1:0
await remsim-server 'listening for RSPRO'
rspro=$(address)
await remsim-server 'listening for REST'
rest=$(address)
row server "RSPRO at $rspro, REST at $rest" "$(since "$t0")"

# The bankd has to know its port before it listens, since it tells the server: take one that is free.
port=$((20000 + RANDOM % 10000))
while (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do ((port++)); done
now t0
start remsim-bankd -i 127.0.0.1 -p "${rspro##*:}" -b 1 -n 2 -I 127.0.0.1 -P "$port" --advertise "127.0.0.1:$port" --slots-file "$dir/slots.csv"
await remsim-bankd 'listening for RSPRO'
row bankd "bank 1 with 2 cards, at $(address)" "$(since "$t0")"

now t0
coproc shell { exec "$bin/remsim-client-shell" -i 127.0.0.1 -p "${rspro##*:}" -c 23 -n 0 2>"$dir/remsim-client-shell.log"; }
shell_pid=$shell_PID
pids+=("$shell_pid")
# Copies, since bash forgets its own when the coprocess ends.
exec {from}<&"${shell[0]}" {to}>&"${shell[1]}"
eval "exec ${shell[0]}<&- ${shell[1]}>&-"
shell=("$from" "$to")
for ((n = 0; ; n++)); do
	if [[ $(api -c) == *C23:0* && $(api -b) == *B1* ]]; then break; fi
	((n < 500)) || die "client and bankd aren't at the server after 10 s"
	sleep 0.02
done
row client 'client 23 slot 0, a shell as its modem' "$(since "$t0")"

title 'Mapping the card in slot 0 to the client'
map 0

title 'Reading it: each command goes modem, client, bankd, card and back'
trips=()
identify 0

title 'Authenticating as to a network (3GPP TS 35.208 test set 1)'
tpdu 'SELECT ADF.USIM' '00 a4 04 0c 07 a0 00 00 00 87 10 02' 9000
tpdu 'AUTHENTICATE' "00 88 00 81 22 10 $rand 10 $autn" '61*'
tpdu 'GET RESPONSE' "00 c0 00 00 ${sw:2}" 9000
[[ $data == db08* ]] || die "AUTHENTICATE: the card refuses: $data"
[ "${data:4:16}" = $res ] || die "RES is ${data:4:16}, want $res"
result "RES ${data:4:16}" 'as the test set has it: a network would accept'


title 'Changing cards while the modem runs: slot 1 instead'
api -d 1 0
map 1
identify 1

title 'What the server knows'
api | sed 's/^\(.\)/  \1/'

title 'Stopping'
exec {to}>&-
for ((n = 0; n < 60; n++)); do
	kill -0 "$shell_pid" 2>/dev/null || break
	sleep 0.1
done
for pid in "${pids[@]}"; do
	if [ "$pid" != "$shell_pid" ]; then kill "$pid"; fi
done
for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || die "a program ended with status $?"; done
pids=()
mapfile -t sorted < <(printf '%s\n' "${trips[@]}" | sort -n)
row 'all have ended' "${#trips[@]} commands, median round trip $(took "${sorted[${#sorted[@]} / 2]}")" "$(since "$began")"
