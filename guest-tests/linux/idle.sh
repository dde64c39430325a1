# shellcheck shell=sh
# SPDX-License-Identifier: Apache-2.0
# idle - a guest that is up and does nothing until it is ended.
echo "guest is up"
exec sleep 100000
