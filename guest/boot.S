/*
 * Entry by the PVH boot protocol: 32-bit protected mode, paging and interrupts off, and %ebx
 * holding the address of the start info. Sets up segments and a stack, then calls C.
 */
#define CODE_SELECTOR 0x08
#define DATA_SELECTOR 0x10
#define STACK_BYTES 8192

#define XEN_ELFNOTE_PHYS32_ENTRY 18

    .pushsection .note.pvh, "a", @note
    .long 4, 4, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long _start
    .popsection

    .section .text.start, "ax"
    .globl _start
_start:
    cli
    cld
    lgdt gdt_pointer
    ljmp $CODE_SELECTOR, $1f
1:  mov $DATA_SELECTOR, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %fs
    mov %ax, %gs
    mov %ax, %ss
    mov $stack_top, %esp

    mov $bss_start, %edi
    mov $bss_end, %ecx
    sub %edi, %ecx
    xor %eax, %eax
    rep stosb

    push %ebx
    call guest_main
2:  cli
    hlt
    jmp 2b

    .align 8
gdt:
    .quad 0
    .quad 0x00cf9a000000ffff    /* code: base 0, limit 4 GiB */
    .quad 0x00cf92000000ffff    /* data: base 0, limit 4 GiB */
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .long gdt

    .section .bss
    .align 16
    .skip STACK_BYTES
stack_top:

    .section .note.GNU-stack, "", @progbits
