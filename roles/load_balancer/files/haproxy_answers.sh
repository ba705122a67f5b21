# shellcheck shell=bash
# Tells keepalived whether HAProxy answers at the port that clients come to. For a moment nobody does when systemd starts
# it anew after a crash; one that is silent for so long is stuck.
for _attempt in 1 2 3; do
    if { exec 3<>"/dev/tcp/127.0.0.1/$1"; } 2>/dev/null; then
        printf 'GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: keepalived\r\nConnection: close\r\n\r\n' >&3
        IFS= read -r -t 1.2 -u 3 answer
        # What read says of a timeout is above 128.
        (($? > 128)) && exit 1
        [[ $answer == "HTTP/1."?" 200 "* ]] && exit 0
    fi
    sleep 0.2
done
exit 1
