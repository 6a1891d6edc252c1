#!/bin/sh
echo "tiny: power button" > /dev/console
poweroff
