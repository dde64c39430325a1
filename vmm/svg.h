/* SPDX-License-Identifier: Apache-2.0 */
/*
 * svg - a picture of a VM's domains: IOVA from left to right and on in rows, a colour for each
 * class, large holes and long stretches drawn shorter than they are. One file without scripts or
 * references; whoever points at a place is told what it is.
 */
#ifndef VMM_SVG_H
#define VMM_SVG_H

#include "vmm/view.h"

struct svg;

/* svg_begin - @file and @vm live until svg_end(). Return: 0; -ENOMEM after a line on stderr. */
int svg_begin(FILE *file, pid_t pid, const struct view_vm *vm, struct svg **out);

/* svg_add_domain - @map is folded, see view_map_add(). Return: 0; -ENOMEM after a line on stderr.
 */
int svg_add_domain(struct svg *svg, const struct view_domain *dom, const struct view_map *map);

/* svg_end - write it all, and free @svg; whether @file took it, ferror() tells */
void svg_end(struct svg *svg);

#endif
