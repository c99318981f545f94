# Ends the servers that tests share and deletes the folder when the last test process has gone, however it went.
#
#   sh guardian.sh FOLDER SECONDS <FOLDER/users
#
# FOLDER/users is a FIFO that every test process holds open for writing: its end means that nobody is left. Whoever
# joins writes a line and waits until FOLDER/joined/LINE is there; once we have decided to end, nobody is answered.
folder=$1
trap '' HUP INT TERM

while :; do
    while read -r user; do
        : >"$folder/joined/$user"
    done
    # Test processes follow on each other, with gaps between them.
    sleep "$2" </dev/null
    read -r user || break
    : >"$folder/joined/$user"
done

# From here on a newcomer finds nothing in our place and begins anew.
gone=$folder.gone.$$
mv "$folder" "$gone" || exit

# Programs that a killed test had started may still be writing: once may not be enough.
rounds=50
while [ -e "$gone" ] && [ $((rounds -= 1)) -gt 0 ]; do
    find "$gone" -name postmaster.pid | while read -r file; do
        read -r pid <"$file" || continue
        # The number in the file may be left from a server that was killed.
        if [ -e /proc/self/cmdline ]; then cat "/proc/$pid/cmdline"; else ps -ww -o args= -p "$pid"; fi |
            grep -qF "$folder/" || continue
        kill -QUIT "$pid"
        tries=100
        while [ -e "$file" ] && kill -0 "$pid" && [ $((tries -= 1)) -gt 0 ]; do
            sleep 0.1 </dev/null
        done
    done
    rm -rf "$gone" || sleep 0.1 </dev/null
done
