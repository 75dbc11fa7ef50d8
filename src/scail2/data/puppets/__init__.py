"""puppets"""
